/* The files beside an encoder's weights: whatever they hold, what is read is in range. */
#include "base/alloc.h"
#include "engine/encoder_settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span text = span_of(data, size);
    struct error err;
    char folder[ENCODER_FOLDER_MAX];
    enum encoder_pooling pooling = ENCODER_MEAN;
    uint32_t tokens = 1;
    struct encoder_settings s = {.labels = NULL};
    if (encoder_parse_modules(text, folder, &err) == 0) ASSERT(strlen(folder) < sizeof folder && !strchr(folder, '/') && folder[0] != '.');
    if (encoder_parse_pooling(text, &pooling, &err) == 0) ASSERT(pooling <= ENCODER_LAST);
    if (encoder_parse_sentence(text, &tokens, &err) == 0) ASSERT(tokens > 0);
    if (encoder_parse_labels(text, 3, &s, &err) == 0)
        for (uint32_t i = 0; s.labels && i < 3; i++) ASSERT(s.labels[i][0] != 0);
    encoder_settings_fini(&s);
    return 0;
}
