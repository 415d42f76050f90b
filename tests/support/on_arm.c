/* Calls a kernel with the arguments and buffers in the file argv[1]; what it wrote into y goes to standard output. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { X, Y, VALUES, CROW, COL, BIAS, SCALE, SCRATCH, SCRATCH_BYTES, MOST = 64 };
void bayesprune_linear(void *slots);

static int64_t number(FILE *file) {
    int64_t n;
    if (fread(&n, sizeof n, 1, file) != 1) exit(3);
    return n;
}

static int64_t buffer(FILE *file, int64_t *size) {
    *size = number(file);
    if (*size == 0) return 0;
    char *bytes = aligned_alloc(64, (*size + 63) / 64 * 64);
    if (bytes == NULL || fread(bytes, 1, *size, file) != (size_t)*size) exit(4);
    return (int64_t)bytes;
}

int main(int count, char **names) {
    FILE *file = count == 2 ? fopen(names[1], "rb") : NULL;
    if (file == NULL) return 2;
    int64_t slots[MOST], size[SCRATCH + 1], n = number(file), table = number(file);
    for (int i = 0; i < n; i++) slots[i] = number(file);
    for (int i = X; i < SCRATCH; i++) slots[i] = buffer(file, &size[i]);
    slots[table] = buffer(file, &size[SCRATCH]);
    slots[SCRATCH] = slots[SCRATCH_BYTES] ? (int64_t)aligned_alloc(64, slots[SCRATCH_BYTES]) : 0;
    bayesprune_linear(slots);
    return fwrite((void *)slots[Y], 1, size[Y], stdout) == (size_t)size[Y] ? 0 : 5;
}
