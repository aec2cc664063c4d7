/*
 * Doors whose part of the engine is not built yet: what their requests look like, as tables. A request that is wrong hears so first; a right one hears what is missing, once its model is known to be
 * there. Pure. When a door is built its handler reads the request itself; those of encoders (encode_request.c) go on being checked by their tables.
 */
#ifndef GATEWAY_UNBUILT_REQUEST_H
#define GATEWAY_UNBUILT_REQUEST_H

#include "base/error.h"
#include "base/json.h"

enum {
    UNBUILT_INPUTS_MAX = 2048,     /* OpenAI's own, of embeddings; vLLM takes any number of documents to rank */
    UNBUILT_TEXT_MAX = 8 << 20,    /* whatever a body holds */
    UNBUILT_MODEL_MAX = 256,
};

enum unbuilt_kind {
    UNBUILT_TEXT,     /* a string that is not empty, of at most `high` bytes (0: any) */
    UNBUILT_WORD,     /* one of `words` */
    UNBUILT_FLAG,
    UNBUILT_INTEGER,  /* low … high */
    UNBUILT_REAL,
    UNBUILT_OBJECT,
    UNBUILT_LIST,     /* of one item or more */
    UNBUILT_TEXTS,    /* a string or a list of strings, none of them empty */
    UNBUILT_INPUT,    /* the same, or a list of token ids, or a list of such lists: OpenAI's `input` of embeddings */
    UNBUILT_DOCUMENTS, /* strings or {"text": …} */
    UNBUILT_TURNS,    /* messages: {"role", "content"} */
    UNBUILT_ITEMS,    /* a string, or a list of items of a conversation */
    UNBUILT_SIZE,     /* auto, or WIDTHxHEIGHT of pixels */
    UNBUILT_ANY,      /* a string or an object */
};

struct unbuilt_field {
    const char *name;
    enum unbuilt_kind kind;
    bool required;
    double low, high;
    const char *words[12]; /* NULL behind the last */
};

struct unbuilt {
    const char *what; /* "embeddings": are not built yet */
    const struct unbuilt_field *fields;
    size_t n_fields;
    bool has_model;
};
extern const struct unbuilt UNBUILT_RESPONSES, UNBUILT_EMBEDDINGS, UNBUILT_RERANK, UNBUILT_SCORE, UNBUILT_CLASSIFY, UNBUILT_MESSAGES, UNBUILT_MODERATIONS, UNBUILT_IMAGES, UNBUILT_IMAGE_EDITS,
    UNBUILT_SPEECH, UNBUILT_TABLES, UNBUILT_MONITORING;

/* 0: all that can be said of the request by itself is right. E_INVALID names the parameter. */
int unbuilt_check(const struct unbuilt *u, const struct json *body, struct error *err);

#endif
