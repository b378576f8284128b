//! Large values that are passed from Work to Work by reference.

mod errors;
mod lives;
mod reads;

use std::sync::Arc;

use flowright::prelude::*;

type Table = Vec<Vec<i64>>;

/// A Work that makes a table, and publishes its address in memory.
#[derive(Default, Serialize, Deserialize)]
struct Maker {
    table: Option<Payload<Table>>,
    address: usize,
}

impl Work for Maker {
    type Input = i64;

    async fn run(&mut self, seed: i64, cx: &mut WorkContext<Self>) -> Result<()> {
        let payload = cx.payload(vec![vec![seed, 2, 3], vec![4, 5]])?;
        self.address = Arc::as_ptr(&payload.value().await?) as usize;
        self.table = Some(payload);
        Ok(())
    }
}
