//! says: `Only` is not a Flow
//! says: `App::of_work`

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Only;

impl Work for Only {
    type Input = ();

    async fn run(&mut self, (): (), _: &mut WorkContext<Self>) -> Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Only::default).main()
}
