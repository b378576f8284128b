//! says: `(u32, u32)` cannot be the key of a map of children
//! says: maps of `WorkRef` and `FlowRef` have `String` or integer keys

use std::collections::BTreeMap;

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Train;

impl Work for Train {
    type Input = ();

    async fn run(&mut self, (): (), _cx: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Pipeline {
    train: BTreeMap<(u32, u32), WorkRef<Train>>,
}

fn main() {}
