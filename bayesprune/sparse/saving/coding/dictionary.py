"""The preset deflate dictionary of manifests: their common text, which a small file need not hold.

It is part of the file's version: to change a letter of it is to raise that.
"""

__all__ = ["DICTIONARY"]

_RARE = (
    '"needs_net":"is not a module of torch.nn"bfloat16float16float64int64uint8bool'
    '"class":"TransformerEncoder","args":{"encoder_layer":"class":"TransformerEncoderLayer","args":{"d_model":'
    ',"nhead":,"dim_feedforward":,"dropout":0.1,"activation":"gelu","layer_norm_eps":1e-05,"batch_first":true,'
    '"norm_first":false,"bias":true}},"num_layers":,"norm":null,"enable_nested_tensor":true,"mask_check":true}}'
    '"class":"MultiheadAttention","args":{"embed_dim":,"num_heads":,"dropout":0.0,"add_zero_attn":false,"kdim":'
    ',"vdim":,"batch_first":true,"bias":true,"add_bias_kv":false}}"class":"GRU","args":{"class":"LSTM","args":{'
    '"input_size":,"hidden_size":,"num_layers":1,"bias":true,"batch_first":true,"dropout":0.0,"bidirectional":false,'
    '"proj_size":0}}"class":"Embedding","args":{"num_embeddings":,"embedding_dim":,"padding_idx":null,"max_norm":null,'
    '"norm_type":2.0,"scale_grad_by_freq":false,"sparse":false}}"class":"LayerNorm","args":{"normalized_shape":['
    '],"eps":1e-05,"elementwise_affine":true,"bias":true}}"class":"GELU","args":{"approximate":"none"}}'
    '"class":"Dropout","args":{"p":0.1,"inplace":false}}"class":"AdaptiveAvgPool2d","args":{"output_size":1}}'
    '"class":"BatchNorm1d","args":{"class":"BatchNorm2d","args":{"num_features":,"eps":1e-05,"momentum":0.1,'
    '"affine":true,"track_running_stats":true}}'
    "running_meanrunning_varnum_batches_trackedq_projk_projv_projin_projout_projself_attnlinear1linear2norm1norm2layers"
    '"BSR",8,1,null"BSR",16,1,null"BSR",4,1,null"Dense""CSR",8"torch""reference""triton""native"'
)
_USUAL = (
    '{"version":3,"net":{"class":"Sequential","children":{"0":{"class":"Conv2d","args":{"in_channels":1,"out_channels":'
    ',"kernel_size":[3,3],"stride":[1,1],"padding":[0,0],"dilation":[1,1],"groups":1,"bias":true,'
    '"padding_mode":"zeros"}},"conv1":{"class":"Conv2d","args":{"in_channels":,"out_channels":,"groups":1,'
    '"kernel_size":[5,5],"stride":[1,1],"padding":[0,0],"dilation":[1,1],"bias":true}},"pool1":{"class":"MaxPool2d",'
    '"args":{"kernel_size":2,"stride":2,"padding":0,"dilation":1,"return_indices":false,"ceil_mode":false}},"flatten":'
    '{"class":"Flatten","args":{"start_dim":1,"end_dim":-1}},"relu1":{"class":"ReLU","args":{"inplace":false}},"relu1":'
    '{"class":"Identity","args":{}},"fc1":{"class":"Linear","args":{"in_features":784,"out_features":300,"bias":true}},'
    '"relu2":{"class":"Identity","args":{}},"fc2":{"class":"Linear","args":{"in_features":,"out_features":10,'
    '"bias":true}}}},"needs_net":"","tensors":{"conv1.weight":{"kind":"parameter","dtype":"float32","shape":[20,1,5,5],'
    '"how":"halves","block":[],"parts":{},"grad":true,"channels_last":true},"fc1.scale":{"kind":"buffer",'
    '"dtype":"float32","shape":[],"how":"exact","block":[],"parts":{},"grad":false,"channels_last":false},"fc1.values":'
    '{"kind":"parameter","dtype":"int8","shape":[],"how":"bytes","block":[],"parts":{},"grad":false,"channels_last":'
    'false},"fc1.values":{"kind":"parameter","dtype":"float32","shape":[],"how":"levels","block":[],"parts":{},'
    '"grad":true,"channels_last":false},"fc1.bias":{"kind":"parameter","dtype":"float32","shape":[100],"how":"halves",'
    '"block":[],"parts":{},"grad":true,"channels_last":false},"fc1.crow":{"kind":"buffer","dtype":"int32","shape":[101],'
    '"how":"indices","block":[],"parts":{},"grad":false,"channels_last":false},"fc2.col":{"kind":"buffer",'
    '"dtype":"int32","shape":[],"how":"indices","block":[],"parts":{},"grad":false,"channels_last":false},"fc2.crow":'
    '{"kind":"buffer","dtype":"int32","shape":[11],"how":"indices","block":[],"parts":{},"grad":false,'
    '"channels_last":false}},"ties":{},"sparse":{"fc1":{"format":["CSR",null],"kernel":"native","shape":[300,784],'
    '"activation":"relu"},"fc2":{"format":["CSR",null],"kernel":"native","shape":[],"activation":""}},"opened":{},'
    '"shrunk":{"fc1":{"out_features":[300,],"in_features":[784,]}},"silent":["relu1","relu2"],"buffers":{}}'
)

DICTIONARY = (_RARE + _USUAL).encode()
