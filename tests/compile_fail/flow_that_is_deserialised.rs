//! says: a Flow cannot be deserialised
//! says: remove `Deserialize` from the derives of the Flow

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Train;

impl Work for Train {
    type Input = ();
}

#[derive(Default, Serialize, Deserialize, Children)]
struct Pipeline {
    train: WorkRef<Train>,
}

impl Flow for Pipeline {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn main() {}
