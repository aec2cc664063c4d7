#include "cache/answers.h"

#include <sodium.h>

#include "base/random.h"

_Static_assert(sizeof((struct answer_hash *)0)->state >= sizeof(crypto_generichash_state), "room for BLAKE2b");
_Static_assert(ANSWER_SEAL_SIZE == crypto_secretbox_KEYBYTES, "XSalsa20's key");
_Static_assert(ANSWER_OVERHEAD >= crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES, "what sealing adds");

enum { ENTRY_VERSION = 1, ENTRY_HEAD = 1 + 8, ITEM_HEAD = 2 + 4, HASH_SIZE = 64 };

static crypto_generichash_state *state_of(struct answer_hash *h) { return (crypto_generichash_state *)(void *)h->state; }

void answer_hash_begin(struct answer_hash *h, const uint8_t secret[32], struct span tenant, struct span model, struct span digest) {
    ASSERT(sodium_init() >= 0);
    crypto_generichash_init(state_of(h), secret, 32, HASH_SIZE);
    answer_hash_add(h, SPAN("genloop answer v1"));
    answer_hash_add(h, tenant);
    answer_hash_add(h, model);
    answer_hash_add(h, digest);
}

void answer_hash_add(struct answer_hash *h, struct span piece) {
    uint64_t len = piece.len;
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(len >> (8 * i));
    crypto_generichash_update(state_of(h), bytes, sizeof bytes);
    crypto_generichash_update(state_of(h), (const uint8_t *)piece.data, piece.len);
}

void answer_hash_end(struct answer_hash *h, struct answer_key *key) {
    uint8_t hash[HASH_SIZE];
    static const char prefix[] = "genloop:answer:";
    crypto_generichash_final(state_of(h), hash, sizeof hash);
    memcpy(key->name, prefix, sizeof prefix - 1);
    hex_encode(hash, HASH_SIZE / 2, key->name + sizeof prefix - 1);
    memcpy(key->seal, hash + HASH_SIZE / 2, ANSWER_SEAL_SIZE);
    sodium_memzero(hash, sizeof hash);
    sodium_memzero(h, sizeof *h);
}

int answer_begin(struct buf *items, int64_t now_ms) {
    uint8_t head[ENTRY_HEAD] = {ENTRY_VERSION};
    for (int i = 0; i < 8; i++) head[1 + i] = (uint8_t)((uint64_t)now_ms >> (8 * i));
    return buf_append(items, head, sizeof head);
}

int answer_item(struct buf *items, uint16_t source, struct span bytes) {
    uint8_t head[ITEM_HEAD] = {(uint8_t)source, (uint8_t)(source >> 8)};
    if (bytes.len > UINT32_MAX || buf_room(items) < bytes.len + sizeof head) return items->failed = E_FULL; /* nothing of it, rather than its head */
    for (int i = 0; i < 4; i++) head[2 + i] = (uint8_t)(bytes.len >> (8 * i));
    int r = buf_append(items, head, sizeof head);
    return r ? r : buf_append_span(items, bytes);
}

bool answer_next(struct span *items, uint16_t *source, struct span *bytes, bool *whole) {
    *whole = items->len == 0;
    if (items->len < ITEM_HEAD) return false;
    const uint8_t *head = (const uint8_t *)items->data;
    size_t len = 0;
    for (int i = 0; i < 4; i++) len |= (size_t)head[2 + i] << (8 * i);
    if (len > items->len - ITEM_HEAD) return false;
    *source = (uint16_t)(head[0] | head[1] << 8);
    *bytes = span_sub(*items, ITEM_HEAD, len);
    *items = span_skip(*items, ITEM_HEAD + len);
    return true;
}

int answer_seal(const struct answer_key *key, struct span entry, struct buf *sealed) {
    uint8_t nonce[crypto_secretbox_NONCEBYTES];
    random_bytes(nonce, sizeof nonce);
    int r = buf_append(sealed, nonce, sizeof nonce);
    char *room = r == 0 ? buf_reserve(sealed, entry.len + crypto_secretbox_MACBYTES) : NULL;
    if (!room) return r ? r : E_FULL;
    crypto_secretbox_easy((uint8_t *)room, (const uint8_t *)entry.data, entry.len, nonce, key->seal);
    buf_commit(sealed, entry.len + crypto_secretbox_MACBYTES);
    return 0;
}

int answer_open(const struct answer_key *key, struct span sealed, struct buf *items, int64_t *made_ms) {
    enum { MIN = crypto_secretbox_NONCEBYTES + crypto_secretbox_MACBYTES + ENTRY_HEAD };
    if (sealed.len < MIN) return E_DATA_LOSS;
    size_t len = sealed.len - crypto_secretbox_NONCEBYTES - crypto_secretbox_MACBYTES, before = items->len;
    struct span box = span_skip(sealed, crypto_secretbox_NONCEBYTES);
    uint8_t *room = (uint8_t *)buf_reserve(items, len);
    uint64_t made = 0;
    if (!room) return E_NOMEM;
    if (crypto_secretbox_open_easy(room, (const uint8_t *)box.data, box.len, (const uint8_t *)sealed.data, key->seal) != 0 || room[0] != ENTRY_VERSION) return E_DATA_LOSS;
    for (int i = 0; i < 8; i++) made |= (uint64_t)room[1 + i] << (8 * i);
    memmove(room, room + ENTRY_HEAD, len - ENTRY_HEAD);
    buf_commit(items, len - ENTRY_HEAD);
    ASSERT(items->len == before + len - ENTRY_HEAD);
    *made_ms = (int64_t)made;
    return 0;
}

void cache_control_read(struct span header, struct cache_control *c) {
    struct span directive;
    *c = (struct cache_control){.age_max_ms = -1};
    while (span_cut(&header, ',', &directive)) {
        struct span rest = span_trim(directive), name = SPAN("");
        int64_t seconds;
        (void)span_cut(&rest, '=', &name);
        name = span_trim(name);
        if (span_eq_nocase(name, SPAN("no-cache"))) c->past = true;
        else if (span_eq_nocase(name, SPAN("no-store"))) c->past = c->no_store = true;
        else if (span_eq_nocase(name, SPAN("max-age"))) {
            rest = span_trim(rest);
            if (rest.len >= 2 && rest.data[0] == '"' && rest.data[rest.len - 1] == '"') rest = span_sub(rest, 1, rest.len - 2);
            int r = span_to_i64(rest, &seconds);
            if (r == 0 && seconds >= 0 && seconds <= INT64_MAX / 1000) c->age_max_ms = seconds * 1000;
            else if (r != E_RANGE) c->past = true; /* an age that is none is 0 (RFC 9111, 4.2.1: what is malformed is stale) */
        }
    }
}
