//! says: a child is called what its field is called, here `train`

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
struct Team {
    #[serde(rename = "trainer")]
    train: WorkRef<Train>,
}

impl Flow for Team {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        Ok(())
    }
}

fn main() {}
