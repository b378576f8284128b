//! says: a child is called what its field is called, so give this field a name

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
struct Pipeline(WorkRef<Train>);

fn main() {}
