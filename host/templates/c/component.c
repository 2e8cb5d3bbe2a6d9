/* A component of the world `plugin`: the rules of a request are its own. */
#include "contract.h"

/* Memory for one request: an instance serves one and is thrown away. The linker says where it begins. */
extern char __heap_base;
static char *next = &__heap_base;

EXPORT("cabi_realloc")
void *cabi_realloc(const char *old, size_t old_size, size_t align, size_t new_size) {
    char *start = (char *)(((size_t)next + align - 1) & ~(align - 1));
    next = start + new_size;
    size_t pages = __builtin_wasm_memory_size(0), needed = ((size_t)next + 65535) / 65536;
    if (needed > pages && __builtin_wasm_memory_grow(0, needed - pages) == (size_t)-1) __builtin_trap();
    for (size_t i = 0; i < old_size && i < new_size; i++) start[i] = old[i];
    return start;
}

#define TEXT(text) ((struct string){text, sizeof text - 1})

static struct answer answer;

static struct answer *refuse(enum error_case error, struct string message) {
    answer.is_error = 1;
    answer.error = (uint8_t)error;
    answer.message = message;
    return &answer;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Finds the name to store; false where it is refused. These rules are yours to choose. */
static bool name_of(bool is_there, struct string *name) {
    while (is_there && name->length && is_space(name->at[0])) name->at++, name->length--;
    while (is_there && name->length && is_space(name->at[name->length - 1])) name->length--;
    if (!is_there || !name->length) *name = TEXT("Untitled");
    size_t characters = 0;
    for (size_t i = 0; i < name->length; i++) {
        unsigned char c = (unsigned char)name->at[i];
        /* C0 and DEL, and C1 as its two bytes. */
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)name->at[i + 1] < 0xa0)) return false;
        characters += (c & 0xc0) != 0x80;
    }
    return characters <= 255;
}

static int hex(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Parses a UUID in the hyphenated form. */
static bool parse(struct string text, struct uuid *id) {
    int digits = 0;
    if (text.length != 36) return false;
    for (size_t i = 0; i < 36; i++) {
        bool is_hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (is_hyphen) {
            if (text.at[i] != '-') return false;
            continue;
        }
        int digit = hex(text.at[i]);
        if (digit < 0) return false;
        uint64_t *half = digits++ < 16 ? &id->high : &id->low;
        *half = *half << 4 | (uint64_t)digit;
    }
    return true;
}

/* Writes the text of an id. */
static struct string text_of(struct uuid id, char *to) {
    for (int digit = 0, i = 0; digit < 32; digit++) {
        if (digit == 8 || digit == 12 || digit == 16 || digit == 20) to[i++] = '-';
        uint64_t half = digit < 16 ? id.high : id.low;
        to[i++] = "0123456789abcdef"[half >> (60 - digit % 16 * 4) & 15];
    }
    return (struct string){to, 36};
}

EXPORT("recoup:workspaces/workspaces@1.0.0#create-workspace")
struct answer *create_workspace(int32_t has_name, const char *name_at, size_t name_length, int32_t has_account,
                                const char *account_at, size_t account_length, int32_t has_organization,
                                const char *organization_at, size_t organization_length) {
    static char id_text[36], account_text[36];
    struct string name = {name_at, name_length};
    struct uuid account = {0, 0}, organization = {0, 0};
    if (!name_of(has_name, &name))
        return refuse(ERROR_INVALID_REQUEST, TEXT("name is too long or has control characters: send another"));
    if (has_account && !parse((struct string){account_at, account_length}, &account))
        return refuse(ERROR_INVALID_REQUEST, TEXT("account_id is not a UUID: send one, or leave it out"));
    if (has_organization && !parse((struct string){organization_at, organization_length}, &organization))
        return refuse(ERROR_INVALID_REQUEST, TEXT("organization_id is not a UUID: send one, or leave it out"));

    struct authorized authorized;
    authorize(has_account, account.high, account.low, has_organization, organization.high, organization.low, &authorized);
    if (authorized.is_error) switch ((enum denial)authorized.denial) {
        case UNAUTHENTICATED: return refuse(ERROR_UNAUTHENTICATED, TEXT("Send a valid credential"));
        case ACCOUNT_FORBIDDEN: return refuse(ERROR_FORBIDDEN, TEXT("You have no access to this account_id"));
        case ORGANIZATION_FORBIDDEN: return refuse(ERROR_FORBIDDEN, TEXT("You have no access to this organization_id"));
        case UNAVAILABLE: return refuse(ERROR_UNAVAILABLE, TEXT("Access could not be checked: try again later"));
    }

    struct stored stored;
    storage_create_workspace(authorized.grant, name.at, name.length, &stored);
    if (stored.is_error) switch ((enum storage_error)stored.error) {
        case ACCESS_LOST: return refuse(ERROR_FORBIDDEN, TEXT("Your access was withdrawn during the request"));
        case INVALID_NAME: return refuse(ERROR_INVALID_REQUEST, TEXT("name can't be stored: send another"));
        case GRANT_USED:
        case STORAGE_UNAVAILABLE:
            return refuse(ERROR_UNAVAILABLE, TEXT("The workspace was not created: try again later"));
        case OUTCOME_UNKNOWN:
            return refuse(ERROR_UNKNOWN, TEXT("It is not known whether the workspace was created"));
    }

    struct uuid of_grant;
    grant_account_id(authorized.grant, &of_grant);
    grant_drop(authorized.grant);
    answer.is_error = 0;
    answer.id = text_of(stored.id, id_text);
    answer.name = name;
    answer.account_id = text_of(of_grant, account_text);
    answer.is_workspace = 1;
    return &answer;
}
