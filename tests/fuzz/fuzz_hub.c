/* What a hub says of a repository, behind a name of it: files that are chosen stay below their folder and have a size; what is refused says why. */
#include "cli/hub.h"

static void check_path(const char *name) {
    struct span rest = span_str(name), part;
    ASSERT(name[0] && name[0] != '/');
    while (span_cut(&rest, '/', &part)) ASSERT(part.len && !span_eq_str(part, ".."));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span text = span_of(data, size), name;
    struct hub_ref ref;
    struct hub_files files = {0};
    struct json *root = NULL;
    struct error err = {0};
    if (!span_cut(&text, '\n', &name)) return 0;
    if (hub_ref_parse(name, &ref, &err) < 0) {
        ASSERT(err.code == E_INVALID && err.message[0]);
        return 0;
    }
    check_path(ref.repo);
    check_path(ref.revision);
    if (ref.file[0]) check_path(ref.file);
    if (json_parse(text, &root, NULL) == 0) {
        int r = hub_choose(root, &ref, &files, &err);
        ASSERT(r == 0 ? files.n > 0 && files.commit[0] : err.code == r && err.message[0]);
        for (size_t i = 0; r == 0 && i < files.n; i++) check_path(files.list[i].name);
    }
    hub_files_fini(&files);
    json_free(root);
    return 0;
}
