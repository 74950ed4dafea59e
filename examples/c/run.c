/* Runs a network that `tombola deploy network.ticket --out fast --formats c` wrote on examples from a file.
 *
 *     cc -O2 -Ifast examples/c/run.c fast/network.o -pthread -o run
 *     ./run examples.f32        # raw float32, one example after the other; a line of outputs for each
 *     ./run examples.f32 2      # on 2 threads
 *
 * The network has one input and one output here; each further one is a further row of `inputs` and `outputs`.
 */
#include <stdio.h>
#include <stdlib.h>

#include "network.h"

static int failed(int32_t status) {
    if (status != NETWORK_OK) fprintf(stderr, "%s\n", network_message(status));
    return status != NETWORK_OK;
}

static float *read_floats(const char *path, size_t *count) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *count = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    float *values = (float *)malloc(*count * sizeof(float) + 1);
    if (values && fread(values, sizeof(float), *count, file) != *count) *count = 0;
    fclose(file);
    return values;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "give a file of float32 numbers, and threads if you like\n");
        return 2;
    }
    if (network_abi() != NETWORK_ABI) {
        fprintf(stderr, "the header is of another library than this one\n");
        return 2;
    }
    size_t count = 0;
    float *values = read_floats(argv[1], &count);
    size_t batch = count / network_input_size(0), width = network_output_size(0);
    float *results = (float *)malloc(batch * width * sizeof(float) + 1);
    if (!values || !results) {
        fprintf(stderr, "%s cannot be read\n", argv[1]);
        return 2;
    }
    network_context *context;
    if (failed(network_create(argc > 2 ? atoi(argv[2]) : 1, &context))) return 1;
    network_input inputs[] = {{values, count}};
    network_output outputs[] = {{results, batch * width}};
    int bad = failed(network_run(context, batch, inputs, 1, outputs, 1));
    network_destroy(context);
    for (size_t i = 0; !bad && i < batch * width; i++) printf("%.9g%c", results[i], (i + 1) % width ? ' ' : '\n');
    free(values);
    free(results);
    return bad;
}
