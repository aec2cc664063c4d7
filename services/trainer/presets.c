#include "services/trainer/presets.h"

const char PRESET_NAMES[] = "pretrain-small, sft-small, dpo-small";

const struct preset PRESETS[] = {
    /* Small and with many small steps: what learns most in the two or three minutes that a first try gets on two cores. At this size the loss falls faster by
     * more steps than by more width or larger batches. Sequences are shorter than the context: attention costs with their length. */
    {"pretrain-small", "objective: pretrain\n"
                       "model: {architecture: llama, layers: 4, width: 128, heads: 4, kv_heads: 4, context: 1024, vocab: 4096, tie_embeddings: true}\n"
                       "batch: {sequences: 2, length: 512}\n"
                       "optimizer: {lr: 4.0e-3, betas: [0.9, 0.95], weight_decay: 0.1}\n"
                       "schedule: {name: cosine, warmup_steps: 30, min_lr_ratio: 0.05}\n"
                       "steps: 1400\n"
                       "checkpoint: {every: 200, keep: 2}\n"
                       "evaluate: {every: 0}\n"},
    {"sft-small", "objective: sft\n"
                  "batch: {sequences: 8, length: 512}\n"
                  "optimizer: {lr: 1.0e-3, betas: [0.9, 0.95]}\n"
                  "schedule: {name: cosine, warmup_steps: 10}\n"
                  "steps: 250\n"
                  "checkpoint: {every: 50, keep: 2}\n"},
    {"dpo-small", "objective: dpo\n"
                  "batch: {sequences: 16, length: 512}\n"
                  "optimizer: {lr: 5.0e-5, betas: [0.9, 0.95]}\n"
                  "schedule: {name: linear, warmup_steps: 5}\n"
                  "dpo: {beta: 0.1}\n"
                  "steps: 60\n"
                  "checkpoint: {every: 50, keep: 2}\n"},
};
const int PRESETS_COUNT = sizeof PRESETS / sizeof *PRESETS;

const struct preset *preset_find(struct span name) {
    for (int i = 0; i < PRESETS_COUNT; i++)
        if (span_eq_str(name, PRESETS[i].name)) return &PRESETS[i];
    return NULL;
}
