/*
 * What requests of some doors look like, as tables of fields with their kinds and limits. Encoders' doors (encode_request.c) hold a request to its table before they read it; those whose part of the
 * engine is not built yet (unbuilt.c) do too, so that a request that is wrong hears so first, and a right one what is missing. Pure.
 */
#ifndef GATEWAY_REQUEST_SHAPE_H
#define GATEWAY_REQUEST_SHAPE_H

#include "base/error.h"
#include "base/json.h"

enum {
    SHAPE_INPUTS_MAX = 2048,     /* OpenAI's own, of embeddings; vLLM takes any number of documents to rank */
    SHAPE_TEXT_MAX = 8 << 20,    /* whatever a body holds */
    SHAPE_MODEL_MAX = 256,
};

enum shape_kind {
    SHAPE_TEXT,     /* a string that is not empty, of at most `high` bytes (0: any) */
    SHAPE_WORD,     /* one of `words` */
    SHAPE_FLAG,
    SHAPE_INTEGER,  /* low … high */
    SHAPE_REAL,
    SHAPE_OBJECT,
    SHAPE_LIST,     /* of one item or more */
    SHAPE_TEXTS,    /* a string or a list of strings, none of them empty */
    SHAPE_INPUT,    /* the same, or a list of token ids, or a list of such lists: OpenAI's `input` of embeddings */
    SHAPE_DOCUMENTS, /* strings or {"text": …} */
    SHAPE_TURNS,    /* messages: {"role", "content"} */
    SHAPE_SIZE,     /* auto, or WIDTHxHEIGHT of pixels */
    SHAPE_ANY,      /* a string or an object */
};

struct shape_field {
    const char *name;
    enum shape_kind kind;
    bool required;
    double low, high;
    const char *words[12]; /* NULL behind the last */
};

struct request_shape {
    const char *what; /* that the door gives: "embeddings" */
    const struct shape_field *fields;
    size_t n_fields;
    bool has_model;
};
extern const struct request_shape SHAPE_EMBEDDINGS, SHAPE_RERANK, SHAPE_SCORE, SHAPE_CLASSIFY, SHAPE_MESSAGES, SHAPE_MODERATIONS, SHAPE_IMAGES, SHAPE_IMAGE_EDITS,
    SHAPE_SPEECH, SHAPE_TABLES, SHAPE_MONITORING;

/* 0: all that can be said of the request by itself is right. E_INVALID names the parameter. */
int request_shape_check(const struct request_shape *shape, const struct json *body, struct error *err);

#endif
