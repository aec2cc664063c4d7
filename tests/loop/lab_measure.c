/* Candidate and baseline → record, figures, verdict: a line each. Ends with 0 where every gate passed, 1 where it could not be measured, 3 where a gate failed. */
#include <stdio.h>

#include "base/clock.h"
#include "base/file.h"
#include "gates/gates.h"
#include "lab.h"
#include "services/trainer/measure.h"

int lab_measure(const struct lab_args *a, struct error *err) {
    const char *corpus = lab_option(a, "corpus", NULL), *baseline = lab_option(a, "baseline", ""), *out = lab_option(a, "out", NULL), *preferences = lab_option(a, "preferences", "");
    char documents[LAB_PATH_MAX], prompts[LAB_PATH_MAX];
    struct buf record;
    struct evaluation_record *parsed = NULL;
    static struct gate_verdict v;
    Genloop__V1__EvaluateSpec spec = GENLOOP__V1__EVALUATE_SPEC__INIT;
    spec.candidate = (char *)(uintptr_t) "model@2";
    spec.baseline = (char *)(uintptr_t)(baseline[0] ? "model@1" : "");
    spec.held_out = (char *)(uintptr_t) "corpus@1";
    spec.trait = (char *)(uintptr_t)lab_option(a, "trait", "");
    spec.documents_max = (uint32_t)lab_number(a, "documents", 200);
    spec.prompts = (uint32_t)lab_number(a, "prompts", 200);
    spec.sample_tokens = (uint32_t)lab_number(a, "tokens", 48);
    spec.multiply_adds_max = (uint64_t)(lab_number(a, "multiply-adds", 0) * 1e12);
    spec.documents_min = 10;
    spec.prompts_min = 100;
    spec.seed = (uint64_t)lab_number(a, "seed", 1);
    spec.temperature = lab_number(a, "temperature", 1);
    struct measure_paths p = {.candidate = lab_option(a, "candidate", NULL), .baseline = baseline[0] ? baseline : NULL, .documents = lab_path(documents, corpus, "held-documents.jsonl"),
                              .prompts = lab_path(prompts, corpus, "held-pairs.jsonl"), .preferences = preferences[0] ? preferences : NULL, .work = lab_option(a, "work", "/tmp")};
    struct measure_options options = {.threads = (uint32_t)lab_number(a, "threads", 0)};
    buf_init(&record, GATES_RECORD_MAX);
    int r = measure_evaluation(&p, &spec, &options, &record, err);
    if (!r) r = file_write(out, buf_span(&record), 0600, err);
    if (!r) r = evaluation_record_parse(buf_span(&record), SPAN(""), &parsed, err);
    if (!r) r = gates_judge(parsed, &GATE_LIMITS_DEFAULT, &v, err);
    for (size_t i = 0; i < v.n_figures && !r; i++)
        printf("figure %s %.5f %.5f %.5f %llu\n", v.figures[i].name, v.figures[i].value, v.figures[i].low, v.figures[i].high, (unsigned long long)v.figures[i].samples);
    for (size_t i = 0; i < v.n_gates && !r; i++) printf("gate %s %s %+.5f %s\n", v.gates[i].gate, v.gates[i].passed ? "passed" : "FAILED", v.gates[i].margin, v.gates[i].rule);
    evaluation_record_free(parsed);
    buf_fini(&record);
    return r ? r : v.passed ? 0 : 3;
}
