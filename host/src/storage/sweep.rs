//! Forgetting claims that were kept for long enough.

use std::time::Duration;

use super::{Claim, Database};

/// How often old claims are looked for.
const EVERY: Duration = Duration::from_secs(60);

/// How many are forgotten at once, and the pause before the next ones: requests come in between.
const BATCH: u32 = 500;
const PAUSE: Duration = Duration::from_millis(100);

/// Forgets claims older than [`Claim::KEPT`], now and every minute, in small batches. Never returns:
/// run it as a task of its own.
pub async fn sweep(database: &dyn Database) {
    loop {
        loop {
            match database.forget_claims(Claim::KEPT, BATCH).await {
                Ok(forgotten) if forgotten == BATCH as usize => tokio::time::sleep(PAUSE).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old idempotency keys could not be forgotten: it is tried again");
                    break;
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
