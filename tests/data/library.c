/* What a library promises a program in C: statuses, calls from four threads at once, memory that does not grow.
 * Arguments: a file of the floats of BATCH examples, one of the outputs that Python gave for them. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "network.h"

#define CHECK(what) \
    if (!(what)) { \
        fprintf(stderr, "line %d: %s\n", __LINE__, #what); \
        exit(1); \
    }
#define BATCH 5
#define ROOM (1 << 20) /* bytes: the system counts pages by the lot */
#define CALLS 10000
#define AT_ONCE 4

static float *values, *wanted;
static size_t in, out;

static float *read_file(const char *path, size_t count) {
    float *content = (float *)malloc(count * sizeof(float));
    FILE *file = fopen(path, "rb");
    CHECK(content && file && fread(content, sizeof(float), count, file) == count);
    fclose(file);
    return content;
}

static long resident(void) {
    long whole = 0, held = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0; /* not on this system */
    CHECK(fscanf(file, "%ld %ld", &whole, &held) == 2);
    fclose(file);
    return held * sysconf(_SC_PAGESIZE);
}

static void compare(network_context *context, float *results) {
    network_input inputs[] = {{values, BATCH * in}};
    network_output outputs[] = {{results, BATCH * out}};
    memset(results, 255, BATCH * out * sizeof(float));
    CHECK(network_run(context, BATCH, inputs, 1, outputs, 1) == NETWORK_OK);
    CHECK(!memcmp(results, wanted, BATCH * out * sizeof(float)));
}

static void *many(void *threads) {
    float *results = (float *)malloc(BATCH * out * sizeof(float));
    network_context *context;
    CHECK(network_create(*(int *)threads, &context) == NETWORK_OK);
    for (int i = 0; i < 200; i++) compare(context, results);
    network_destroy(context);
    free(results);
    return NULL;
}

static void *on_one_context(void *context) {
    float *results = (float *)malloc(BATCH * out * sizeof(float));
    network_input inputs[] = {{values, BATCH * in}};
    network_output outputs[] = {{results, BATCH * out}};
    size_t done = 0;
    for (int i = 0; i < 2000; i++) {
        int status = network_run((network_context *)context, BATCH, inputs, 1, outputs, 1);
        CHECK(status == NETWORK_OK || status == NETWORK_BUSY);
        done += status == NETWORK_OK;
    }
    free(results);
    return (void *)done;
}

static void statuses(void) {
    float *results = (float *)malloc(BATCH * out * sizeof(float));
    network_context *context = NULL;
    network_input inputs[] = {{values, BATCH * in}}, none[] = {{NULL, BATCH * in}}, few[] = {{values, BATCH * in - 1}};
    network_output outputs[] = {{results, BATCH * out}}, more[] = {{results, BATCH * out + 1}};
    CHECK(network_create(0, &context) == NETWORK_THREADS && !context);
    CHECK(network_create(NETWORK_THREADS_MOST + 1, &context) == NETWORK_THREADS && !context);
    CHECK(network_create(1, NULL) == NETWORK_NOTHING_GIVEN);
    CHECK(network_create(1, &context) == NETWORK_OK && context);
    CHECK(network_run(context, 0, inputs, 1, outputs, 1) == NETWORK_BATCH);
    CHECK(network_run(NULL, BATCH, inputs, 1, outputs, 1) == NETWORK_NOTHING_GIVEN);
    CHECK(network_run(context, BATCH, NULL, 1, outputs, 1) == NETWORK_NOTHING_GIVEN);
    CHECK(network_run(context, BATCH, none, 1, outputs, 1) == NETWORK_NOTHING_GIVEN);
    CHECK(network_run(context, BATCH, inputs, 2, outputs, 1) == NETWORK_COUNT);
    CHECK(network_run(context, BATCH, inputs, 1, outputs, 0) == NETWORK_COUNT);
    CHECK(network_run(context, BATCH, few, 1, outputs, 1) == NETWORK_SIZE);
    CHECK(network_run(context, BATCH + 1, inputs, 1, outputs, 1) == NETWORK_SIZE);
    CHECK(network_run(context, BATCH, inputs, 1, more, 1) == NETWORK_SIZE);
    CHECK(network_run(context, (size_t)1 << 62, inputs, 1, outputs, 1) == NETWORK_SIZE);
    compare(context, results);
    network_destroy(context);
    network_destroy(NULL);
    CHECK(network_abi() == NETWORK_ABI && network_inputs() == 1 && network_outputs() == 1);
    CHECK(network_threads() == NETWORK_THREADS_MOST);
    CHECK(!network_input_size(1) && !network_input_size(-1) && !network_output_size(1));
    CHECK(!strcmp(network_message(NETWORK_OK), "done"));
    CHECK(strstr(network_message(NETWORK_BATCH), "1 or more"));
    CHECK(!strcmp(network_message(-1), network_message(1000)));
    free(results);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    in = network_input_size(0);
    out = network_output_size(0);
    values = read_file(argv[1], BATCH * in);
    wanted = read_file(argv[2], BATCH * out);
    statuses();
    float *results = (float *)malloc(BATCH * out * sizeof(float));
    for (int threads = 1; threads <= NETWORK_THREADS_MOST; threads++) {
        network_context *context;
        CHECK(network_create(threads, &context) == NETWORK_OK);
        for (int i = 0; i < 100; i++) compare(context, results);
        long before = resident();
        for (int i = 0; i < (threads > 1 ? CALLS / 10 : CALLS); i++) compare(context, results);
        CHECK(resident() <= before + ROOM);
        pthread_t callers[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) CHECK(!pthread_create(&callers[i], NULL, many, &threads));
        for (int i = 0; i < AT_ONCE; i++) pthread_join(callers[i], NULL);
        for (int i = 0; i < AT_ONCE; i++) CHECK(!pthread_create(&callers[i], NULL, on_one_context, context));
        size_t done = 0;
        for (int i = 0; i < AT_ONCE; i++) {
            void *own;
            pthread_join(callers[i], &own);
            done += (size_t)own;
        }
        CHECK(done);
        compare(context, results);
        network_destroy(context);
        before = resident();
        for (int i = 0; i < 100; i++) {
            CHECK(network_create(threads, &context) == NETWORK_OK);
            compare(context, results);
            network_destroy(context);
        }
        CHECK(resident() <= before + ROOM);
    }
    free(results);
    free(values);
    free(wanted);
    puts("good");
    return 0;
}
