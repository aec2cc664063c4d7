/*
 * Chats to ids. Our own template (ChatML) is rendered natively; another template's text is E_UNSUPPORTED until the interpreter for it exists.
 * What people wrote can never become a special token: the rendered text is kept in pieces, those of the template trusted, roles and contents not, and
 * encoded by tokenizer_encode_pieces. For contents without such text the ids are those of transformers' apply_chat_template.
 */
#ifndef GENLOOP_TOKENIZER_CHAT_H
#define GENLOOP_TOKENIZER_CHAT_H

#include "tokenizer/tokenizer.h"

enum { CHAT_MESSAGES_MAX = 4096 }; /* an 8 MiB body of the shortest messages has fewer that make sense; bounds the pieces */

/* <|im_start|>role\ncontent<|im_end|>\n for each message, then <|im_start|>assistant\n where an answer is asked for. A Jinja text, stored in tokenizer_config.json. */
extern const char CHAT_TEMPLATE_CHATML[];

struct chat_message {
    struct span role;    /* "system", "user", "assistant" */
    struct span content;
};

/* Appends the text. E_UNSUPPORTED: a template that is not ours (NULL: the model has none); E_INVALID: a role that is empty or has a newline. */
int chat_render(const char *template_text, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct buf *out,
                struct error *err);
/* Appends the ids. `answers`, where not NULL, receives an owned array (mem_free) of one byte per appended id: 1 where the id belongs to an assistant's content or
 * is the <|im_end|> behind it, which is what supervised fine-tuning learns. */
int tokenizer_encode_chat(const struct tokenizer *t, const char *template_text, const struct chat_message *messages, size_t count,
                          bool add_generation_prompt, struct tokens *out, uint8_t **answers, struct error *err);

#endif
