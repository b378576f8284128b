//! says: `Pipeline` does not say what its children are
//! says: add `#[derive(Children)]` to `Pipeline`

use flowright::prelude::*;

#[derive(Default, Serialize)]
struct Pipeline;

impl Flow for Pipeline {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn main() {}
