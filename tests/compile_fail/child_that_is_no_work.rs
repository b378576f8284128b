//! says: `Train` is not a Work
//! says: a Work derives `Serialize` and `Deserialize`

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Train;

#[derive(Default, Serialize, Children)]
struct Pipeline {
    train: WorkRef<Train>,
}

fn main() {}
