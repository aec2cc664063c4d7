/* The data card: what is in a dataset version, what was left out and why, and what one should not expect of it. */
#include "base/clock.h"
#include "services/ingest/clean.h"
#include "services/ingest/manifest.h"
#include "services/ingest/quality.h"

static void put_bytes(struct buf *out, uint64_t n) {
    if (n >= 10ull << 20) buf_printf(out, "%.1f MB", (double)n / 1e6);
    else if (n >= 10240) buf_printf(out, "%.1f kB", (double)n / 1e3);
    else buf_printf(out, "%llu bytes", (unsigned long long)n);
}

static void put_table(struct buf *out, const char *heading, const struct tag_table *t, const char *none) {
    buf_printf(out, "\n| %s | Documents | Text |\n|---|---|---|\n", heading);
    for (size_t i = 0; i < t->n; i++) {
        buf_append_str(out, "| ");
        for (const char *p = t->items[i].tag; *p; p++) buf_append_char(out, *p == '|' || *p == '\n' ? ' ' : *p); /* as the client gave it */
        buf_printf(out, " | %llu | ", (unsigned long long)t->items[i].documents);
        put_bytes(out, t->items[i].bytes);
        buf_append_str(out, " |\n");
    }
    if (!t->n) buf_printf(out, "| %s | | |\n", none);
}

int dataset_card_write(const struct dataset_facts *f, struct buf *out) {
    char time[TIME_TEXT_MAX];
    const struct split *splits[] = {f->train, f->held_out};
    uint64_t documents = f->train->documents + f->held_out->documents;
    buf_printf(out, "# Data card: %s@%u\n\n", f->name, f->version);
    buf_printf(out, "Built %s from documents that were uploaded to this platform (build `%s`, tenant `%s`).\n\n", time_format(f->created_time_ms, time), f->build_id, f->tenant);
    buf_append_str(out, "## What is in it\n\n| Split | Documents | Tokens | Text | Pairs |\n|---|---|---|---|---|\n");
    for (int i = 0; i < 2; i++) {
        buf_printf(out, "| %s | %llu | %llu | ", i ? "held_out" : "train", (unsigned long long)splits[i]->documents, (unsigned long long)splits[i]->tokens_count);
        put_bytes(out, splits[i]->text_bytes);
        buf_printf(out, " | %llu |\n", (unsigned long long)splits[i]->pairs_count);
    }
    uint64_t tokens = f->train->tokens_count + f->held_out->tokens_count, bytes = f->train->text_bytes + f->held_out->text_bytes;
    buf_printf(out, "\nThe tokenizer is a byte-level BPE of %u ids (%s), `%.12s…`; %.2f bytes of text per token.\n", f->vocab, f->tokenizer_trained ? "trained on the train split" : "given with the build",
               f->tokenizer.sha256, tokens ? (double)bytes / (double)tokens : 0.0);
    buf_append_str(out, "\n### Languages\n");
    put_table(out, "Language", &f->languages, "none");
    buf_append_str(out, "\n`und`: too little prose to tell. Source code is listed by its programming language.\n\n### Kinds\n");
    put_table(out, "Media type", &f->media, "none");
    buf_append_str(out, "\n### Licences\n");
    put_table(out, "Licence, as given with the upload", &f->licences, "none was given");
    buf_append_str(out, "\nLicences are what uploaders wrote into the metadata key `license`; nobody has checked them, and documents without one are not in this table.\n");
    buf_printf(out, "\n## What was left out\n\n%llu documents were received, %llu accepted, %llu rejected. The accepted ones hold %llu records (a row of JSONL or CSV is one), of which %llu repeated another; %llu are in this version.\n",
               (unsigned long long)f->received, (unsigned long long)f->accepted, (unsigned long long)f->rejected, (unsigned long long)f->records, (unsigned long long)f->duplicates,
               (unsigned long long)documents);
    buf_append_str(out, "\n| Reason | Count | What it means |\n|---|---|---|\n");
    for (int i = 1; i < REASON_COUNT; i++)
        if (f->reasons[i]) buf_printf(out, "| %s | %llu | %s |\n", reason_word((enum reason)i), (unsigned long long)f->reasons[i], reason_doc((enum reason)i));
    buf_printf(out,
               "\n## Personal data\n\n%llu pieces of obvious personal data were replaced by `<EMAIL>`, `<PHONE>`, `<IP>`, `<CARD>`, `<IBAN>` or `<SSN>`: patterns, with checksums where the kind has one. "
               "Names, postal addresses and anything that needs understanding are not found.\n",
               (unsigned long long)f->redactions);
    buf_printf(out,
               "\n## How it was made\n\nText was extracted from its markup, put into one form (UTF-8, NFC, one kind of newline), checked and deduplicated exactly (equal but for case and white space). "
               "Documents stand in the order of their ids. A document is held out by the hash of its text (share %.3g, seed %llu), so the same text is on the same side in every build with this seed.\n",
               f->held_out_share, (unsigned long long)f->seed);
    buf_append_str(out,
                   "\n## Known limits\n\n- Near duplicates (the same page in two releases) are kept.\n- Language is told from frequent words and scripts: short and mixed texts are often wrong or `und`.\n"
                   "- Tables and formulas of manual pages are simplified, pictures are left out.\n- Pairs are drawn by rules from headings and options; nobody has judged them.\n"
                   "- Nothing here was filtered for opinion, toxicity or truth.\n");
    return out->failed;
}
