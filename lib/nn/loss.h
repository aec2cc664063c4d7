/* Losses on log-probabilities, as pure functions of numbers: what preference objectives compare. f64. */
#ifndef GENLOOP_NN_LOSS_H
#define GENLOOP_NN_LOSS_H

#include <stdint.h>

enum nn_dpo_kind { NN_DPO_SIGMOID, NN_DPO_IPO, NN_DPO_ROBUST };
struct nn_dpo {
    enum nn_dpo_kind kind;
    double beta, label_smoothing;
};
/* One pair (Rafailov et al. 2023; ipo: Azar et al. 2023; robust: Chowdhury et al. 2024; sigmoid with smoothing: conservative DPO, Mitchell 2023). chosen, rejected: log π − log π_ref of the completions; lengths: their
 * tokens (ipo takes means). Returns the loss; *d_chosen, *d_rejected: its derivatives by chosen and rejected. */
double nn_dpo_loss(const struct nn_dpo *o, double chosen, double rejected, uint64_t chosen_len, uint64_t rejected_len, double *d_chosen,
                   double *d_rejected);

#endif
