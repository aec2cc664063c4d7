/*
 * What a model answered, taken apart as it comes: its words, its reasoning (<think>…</think>) and its calls of tools, which every family writes in its own way. A pure
 * state machine: bytes in, pieces out by callbacks; no I/O, no threads.
 *
 *     TEXT ──<think>──► THINKING ──</think>──► TEXT          (only at the beginning, only where the template knows of it)
 *     TEXT ──a family's mark──► CALL ──its end, or the answer's──► TEXT
 *
 * A call is told when it is whole and is one: JSON (or what the family writes) with the name of a tool that was given. What only looks like a call is text, and comes
 * with nothing lost. What may be the beginning of a mark is held until it is known; chat_parser_finish tells the rest.
 * To add a family: a row in the table of chat_parse.c, and its reader of a call's body where it is none of those that are there.
 */
#ifndef GENLOOP_TOKENIZER_CHAT_PARSE_H
#define GENLOOP_TOKENIZER_CHAT_PARSE_H

#include "base/buf.h"
#include "base/error.h"

enum {
    CHAT_CALL_BYTES_MAX = 1 << 20, /* of one call or list of calls; a longer one is text */
    CHAT_CALLS_MAX = 128,          /* of an answer; OpenAI's own */
};

enum chat_style {
    CHAT_STYLE_NONE,     /* no tools were given: all is text */
    CHAT_STYLE_HERMES,   /* <tool_call>{"name": …, "arguments": {…}}</tool_call>: Hermes, Qwen; Qwen-Coder's <function=…> within; bare JSON at the beginning */
    CHAT_STYLE_MISTRAL,  /* [TOOL_CALLS][{…}, …], and [TOOL_CALLS]name[ARGS]{…} */
    CHAT_STYLE_LLAMA,    /* {"name": …, "parameters": {…}}, several behind ";", with or without <|python_tag|> */
    CHAT_STYLE_DEEPSEEK, /* <｜tool▁calls▁begin｜>… */
    CHAT_STYLE_PYTHONIC, /* [name(a=1), …], and ```tool_code: Llama 4, Gemma */
    CHAT_STYLE_JSON,     /* the whole answer is calls as JSON: what a grammar holds it to */
    CHAT_STYLES
};

struct chat_parser;
struct chat_parser_options {
    enum chat_style style;
    bool reasoning;            /* the model's template knows of <think> */
    const struct span *tools;  /* their names; copied */
    size_t tool_count;
};
struct chat_sink {
    void *arg;
    /* Each returns 0 or an error, which push and finish pass on. Spans are borrowed for the call. */
    int (*on_text)(void *arg, struct span text);
    int (*on_reasoning)(void *arg, struct span text);
    int (*on_call)(void *arg, uint32_t index, struct span name, struct span arguments); /* arguments: a JSON object's text */
};

int chat_parser_new(const struct chat_parser_options *options, const struct chat_sink *sink, struct chat_parser **p); /* E_NOMEM, E_TOO_LARGE */
void chat_parser_free(struct chat_parser *p); /* NULL is accepted */
void chat_parser_begin_reasoning(struct chat_parser *p); /* before the first push: the prompt ended within <think> */
int chat_parser_push(struct chat_parser *p, struct span bytes);
int chat_parser_finish(struct chat_parser *p); /* the answer is over: what was held is told */
uint32_t chat_parser_calls(const struct chat_parser *p); /* how many were told */

#endif
