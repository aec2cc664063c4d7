/* Rows to learn from, as a dataset or a peer's file holds them: pairs, conversations, texts and ids; what opens has only ids below the vocabulary. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "train/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[64];
    if (size == 0) return 0;
    if (!path[0]) (void)snprintf(path, sizeof path, "/dev/shm/fuzz_dataset_rows.%d.jsonl", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ASSERT(fd >= 0 && write(fd, data + 1, size - 1) == (ssize_t)(size - 1));
    close(fd);
    struct data_options o = {.kind = (enum data_kind)(1 + data[0] % 3), .length = 8, .vocab = 64};
    struct data *d = NULL;
    struct error err = {0};
    int r = data_open(&d, path, &o, &err);
    (void)unlink(path);
    if (r < 0) {
        ASSERT(err.code == r && err.message[0]);
        return 0;
    }
    for (uint64_t row = 0; row < data_rows(d); row++)
        for (uint32_t k = 0; k < data_sequences(d, row); k++) {
            struct data_sequence s = data_sequence(d, row, k);
            ASSERT(s.count <= 8);
            for (uint32_t i = 0; s.count > 0 && i <= s.count; i++) ASSERT(data_id(&s, i) < 64);
        }
    data_close(d);
    return 0;
}
