/*
 * What tests/loop/test_preferences is made of: the platform's own parts (cleaning and pairs of services/ingest, joining of judgements of services/feedback,
 * measuring of services/trainer, lib/gates), driven on files, without a bus. Each of these is a verb of the program loop_lab:
 *
 *   corpus   files and folders → train.bin, train-pairs.jsonl, held-documents.jsonl, held-pairs.jsonl, tokenizer/
 *   rate     a model answers prompts, a scripted rater likes or dislikes → preferences.jsonl, held-preferences.jsonl
 *   preset   a preset of services/trainer as JSON
 *   spoil    a model directory → one that is broken in a known way
 *   measure  candidate and baseline → the record of an evaluation, its figures and its verdict
 */
#ifndef TESTS_LOOP_LAB_H
#define TESTS_LOOP_LAB_H

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

enum { LAB_PATH_MAX = 4096, LAB_FILE_MAX = 1 << 30 };

/* Options as --name VALUE; what is left over are operands. */
struct lab_args {
    int count;
    char **values;
};
const char *lab_option(const struct lab_args *a, const char *name, const char *otherwise); /* NULL for otherwise: it is needed, and the process ends without it */
double lab_number(const struct lab_args *a, const char *name, double otherwise);
char *lab_path(char path[LAB_PATH_MAX], const char *dir, const char *name);
int lab_write(const char *dir, const char *name, const struct buf *b, struct error *err);

int lab_corpus(const struct lab_args *a, struct error *err);
int lab_rate(const struct lab_args *a, struct error *err);
int lab_spoil(const struct lab_args *a, struct error *err);
int lab_measure(const struct lab_args *a, struct error *err);

#endif
