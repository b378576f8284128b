//! Numbers in lists of children, which name them, over the lives of an App.

use flowright::prelude::*;

use crate::editions::{Directory, Shop};

crate::tests![number_of_a_child_that_left_at_once_is_not_given_again];

#[derive(Default, Serialize, Deserialize)]
struct Member;

impl Work for Member {
    type Input = ();
}

/// A Flow one of whose children joins and leaves in the first cycle. Another one joins in the next life.
#[derive(Default, Serialize, Children)]
struct Club {
    /// The number of reactions that have changed the list.
    steps: u32,
    /// The path of the last member that has joined.
    last: String,
    members: Vec<WorkRef<Member>>,
    lives: WorkRef<Lives>,
}

/// Counts the lives of the App: its run does not end.
#[derive(Default, Serialize, Deserialize)]
struct Lives {
    count: u64,
}

impl Work for Lives {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        self.count += 1;
        cx.publish(self);
        cx.serve_forever(self).await?;
        Ok(())
    }
}

impl Flow for Club {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        // A child that joins has its Flow react once more in the same cycle.
        match self.steps {
            0 => self.members.push(WorkRef::default()),
            1 => self.members.clear(),
            2 if self.lives.count < 2 => {
                self.lives.run(());
                return Ok(());
            }
            2 => self.members.push(WorkRef::default()),
            _ => {
                self.last =
                    self.members.iter().filter_map(WorkRef::path).map(|path| path.to_string()).collect();
                return Ok(());
            }
        }
        self.steps += 1;
        Ok(())
    }
}

pub(crate) fn run(program: &str) -> Option<ExitCode> {
    (program == "club").then(|| App::new(Club::default).main())
}

/// The App that is started again names the next child as the one that was not ended would.
fn number_of_a_child_that_left_at_once_is_not_given_again() {
    let directory = Directory::new("numbers");
    let shop = Shop::open("club", &directory);
    shop.state(|state| state["steps"] == 2 && state["lives"]["count"] == 1);
    shop.kill();
    let shop = Shop::open("club", &directory);
    let state = shop.state(|state| state["last"] != "");
    assert_eq!(state["last"], "members.1", "{state:#}");
    shop.close();
}
