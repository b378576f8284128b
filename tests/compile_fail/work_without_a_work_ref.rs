//! says: `Train` is a Work, so that a Flow holds it in a `WorkRef<Train>`
//! says: write `WorkRef<Train>` as the type of the field

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Train;

impl Work for Train {
    type Input = ();
}

#[derive(Default, Serialize, Children)]
struct Pipeline {
    train: Train,
}

impl Flow for Pipeline {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        self.train.run(());
        Ok(())
    }
}

fn main() {}
