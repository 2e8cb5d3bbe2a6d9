/* The contract recoup:workspaces/plugin@1.0.0 in the canonical ABI of components, for wasm32. See wit/. */
#ifndef CONTRACT_H
#define CONTRACT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text of the host or for it: UTF-8, without a NUL at its end. */
struct string { const char *at; size_t length; };

/* UUID as its 128 bits in network order. */
struct uuid { uint64_t high, low; };

enum denial { UNAUTHENTICATED, ACCOUNT_FORBIDDEN, ORGANIZATION_FORBIDDEN, UNAVAILABLE };

enum storage_error { GRANT_USED, ACCESS_LOST, INVALID_NAME, STORAGE_UNAVAILABLE, OUTCOME_UNKNOWN };

enum error_case { ERROR_INVALID_REQUEST, ERROR_UNAUTHENTICATED, ERROR_FORBIDDEN, ERROR_UNAVAILABLE, ERROR_UNKNOWN };

/* result<grant, denial>, where a grant is a handle. */
struct authorized { uint8_t is_error; union { uint32_t grant; uint8_t denial; }; };

/* result<uuid, error>. */
struct stored { uint8_t is_error; union { struct uuid id; uint8_t error; }; };

/* result<create-workspace-response, create-workspace-error>. */
struct answer {
    uint8_t is_error;
    union {
        struct { struct string id, name, account_id; uint8_t is_workspace; };
        struct { uint8_t error; struct string message; };
    };
};

#define IMPORT(interface, name) __attribute__((import_module("recoup:workspaces/" interface "@1.0.0"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

IMPORT("auth", "authorize")
void authorize(int32_t has_account, uint64_t account_high, uint64_t account_low, int32_t has_organization,
               uint64_t organization_high, uint64_t organization_low, struct authorized *result);

IMPORT("auth", "[method]grant.account-id")
void grant_account_id(uint32_t grant, struct uuid *result);

IMPORT("auth", "[resource-drop]grant")
void grant_drop(uint32_t grant);

IMPORT("storage", "create-workspace")
void storage_create_workspace(uint32_t grant, const char *name, size_t length, struct stored *result);

#endif
