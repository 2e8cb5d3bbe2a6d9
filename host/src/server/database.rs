//! Databases of tenants and commands.

use std::sync::Arc;

use super::secret;
use crate::storage::{Database, DatabaseAddress, DatabaseError, postgres, sqlite};

/// Opens a database. Its errors do not repeat the secrets of its address.
pub(crate) async fn open_database(
    address: &DatabaseAddress,
    sqlite: &sqlite::SqliteOptions,
    postgres: &postgres::PostgresOptions,
) -> Result<Arc<dyn Database>, DatabaseError> {
    // In a box: nested in all others, the future would be too deep for the compiler.
    let opened = Box::pin(address.open(sqlite, postgres)).await;
    match address {
        DatabaseAddress::Server(address) => opened.map_err(|error| secret::hide_in(error, address)),
        _ => opened,
    }
}
