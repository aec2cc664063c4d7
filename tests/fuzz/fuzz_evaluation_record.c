/* The record of an evaluation: what is read is judged, with the same verdict each time. */
#include <math.h>

#include "gates/gates.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct evaluation_record *record = NULL;
    struct error err = {0};
    int r = evaluation_record_parse(span_of(data, size), SPAN(""), &record, &err);
    if (r < 0) {
        ASSERT(err.code == r && err.message[0]);
        return 0;
    }
    static struct gate_verdict one, two;
    one = two = (struct gate_verdict){0};
    ASSERT(gates_judge(record, &GATE_LIMITS_DEFAULT, &one, &err) == 0 && gates_judge(record, &GATE_LIMITS_DEFAULT, &two, &err) == 0);
    ASSERT(one.passed == two.passed && one.n_gates == two.n_gates && one.n_gates > 0 && one.n_gates <= GATES_MAX && one.n_figures <= GATES_FIGURES_MAX);
    bool all = true;
    for (size_t i = 0; i < one.n_gates; i++) {
        all &= one.gates[i].passed;
        ASSERT(one.gates[i].passed == two.gates[i].passed && !memcmp(&one.gates[i].value, &two.gates[i].value, sizeof(double)));
        /* a gate that holds has a figure to show for it */
        if (one.gates[i].passed) ASSERT(!isnan(one.gates[i].margin));
    }
    ASSERT(one.passed == all && (gates_first_failed(&one) == NULL) == all);
    evaluation_record_free(record);
    return 0;
}
