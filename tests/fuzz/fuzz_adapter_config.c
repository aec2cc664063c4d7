/* adapter_config.json: whatever it holds, the numbers of a module that come out of it are in range. */
#include <math.h>

#include "base/alloc.h"
#include "model/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct span modules[] = {{"model.layers.0.self_attn.q_proj", 30}, {"transformer.h.11.attn.c_attn", 28}, {"", 0}};
    struct adapter_config c;
    struct error err;
    if (adapter_config_parse(span_of(data, size), &c, &err) != 0) return 0;
    ASSERT(c.rank >= 1 && c.rank <= ADAPTER_RANK_MAX && strlen(c.base) < ADAPTER_BASE_MAX);
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        uint32_t rank;
        double scaling;
        adapter_config_module(&c, modules[i], &rank, &scaling);
        ASSERT(rank >= 1 && rank <= ADAPTER_RANK_MAX && isfinite(scaling));
    }
    adapter_config_fini(&c);
    return 0;
}
