/*
 * Chats to ids through the model's chat template (template.h), as transformers' apply_chat_template does it. Our own template (ChatML) is also rendered natively,
 * which is what training on millions of rows takes.
 * What people wrote can never become a special token: the rendered text is kept in pieces, those of the template trusted, what came with the messages not, and
 * encoded by tokenizer_encode_pieces. For contents without such text the ids are those of transformers.
 */
#ifndef GENLOOP_TOKENIZER_CHAT_H
#define GENLOOP_TOKENIZER_CHAT_H

#include "base/json.h"
#include "tokenizer/chat_parse.h"
#include "tokenizer/template.h"
#include "tokenizer/tokenizer.h"

enum { CHAT_MESSAGES_MAX = 4096 }; /* an 8 MiB body of the shortest messages has fewer that make sense; bounds the pieces */

/* <|im_start|>role\ncontent<|im_end|>\n for each message, then <|im_start|>assistant\n where an answer is asked for. A Jinja text, stored in tokenizer_config.json. */
extern const char CHAT_TEMPLATE_CHATML[];

/* A model's template, parsed once. Immutable: any thread may use it. */
struct chat_template;
/* The tokenizer is borrowed for as long as the template lives: its bos, eos and pad are what the template calls bos_token, eos_token and pad_token.
 * E_UNSUPPORTED: text is NULL (the model has no template), or it has a tag that the interpreter has not; E_INVALID: it is no template. */
int chat_template_new(const char *text, const struct tokenizer *tokenizer, struct chat_template **out, struct error *err);
void chat_template_free(struct chat_template *c); /* NULL is accepted */

/* A chat as JSON, as OpenAI's API and transformers write it; borrowed. */
struct chat {
    const struct json *messages; /* an array of objects */
    const struct json *tools;    /* an array, NULL: none */
    const struct json *kwargs;   /* an object: further variables, as enable_thinking; NULL: none */
    bool add_generation_prompt;
};
/* Exactly what transformers would give, or E_INVALID with what the template raises. */
int chat_template_render(const struct chat_template *c, const struct chat *chat, struct template_output *out, struct error *err);
/* Appends the ids of what was rendered: nothing is added. `answers` as in tokenizer_encode_chat, of what stood within {% generation %}; may be NULL. */
int chat_output_encode(const struct tokenizer *t, const struct template_output *output, struct tokens *out, uint8_t **answers, struct error *err);

/* ---- chats as OpenAI's API has them ---- */

/* How the model that the template is of writes its calls; one whose template knows no tools is told of them, and writes as Hermes does. */
enum chat_style chat_template_style(const struct chat_template *c);
bool chat_template_reasons(const struct chat_template *c); /* its template knows of <think> */
/* Appends the ids of the prompt. The chat is OpenAI's: arguments of calls are strings, content may be null, the role may be developer. What the template cannot take is given
 * in a form that it can: arguments as an object or a string, no content as null or "", developer as system; tools, calls and their results in words where it knows none.
 * *in_reasoning, where not NULL: the prompt ends within <think>. E_INVALID: what the template raises. */
int chat_template_prompt(const struct chat_template *c, const struct tokenizer *t, const struct chat *chat, struct tokens *out, bool *in_reasoning, struct error *err);
/* A JSON schema of answers that are calls of these tools (CHAT_STYLE_JSON): for tool_choice. name: of the one that must be called, empty: any; one: a single call. */
int chat_tools_schema(const struct json *tools, struct span name, bool one, struct buf *out, struct error *err);

/* ---- plain chats: a role and a text each ---- */
struct chat_message {
    struct span role;    /* "system", "user", "assistant" */
    struct span content;
};
/* Appends the text. E_UNSUPPORTED: template_text is NULL; E_INVALID: a role that is empty or has a newline, or what the template raises. */
int chat_render(const char *template_text, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct buf *out,
                struct error *err);
/* As chat_template_prompt. */
int chat_template_prompt_plain(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt,
                               struct tokens *out, bool *in_reasoning, struct error *err);
/* Appends the ids. `answers`, where not NULL, receives an owned array (mem_free) of one byte per appended id: 1 where the id is what supervised fine-tuning learns:
 * what the template puts within {% generation %}; where it has none, what an assistant's message adds to the prompt for it, to the special token that ends it
 * (ChatML: the content and the <|im_end|> behind it). */
int chat_template_encode(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt,
                         struct tokens *out, uint8_t **answers, struct error *err);
/* The same with the template's text, which is parsed each time where it is not ours: for a few chats. E_UNSUPPORTED: it is NULL. */
int tokenizer_encode_chat(const struct tokenizer *t, const char *template_text, const struct chat_message *messages, size_t count,
                          bool add_generation_prompt, struct tokens *out, uint8_t **answers, struct error *err);

#endif
