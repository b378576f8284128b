//! Nested Flows: each team manages its own Works, while the company only sets goals and reads results.
//!
//! ```text
//! wheels: made 4
//! cars: made 1
//! COMPANY: 1 car on 4 wheels
//! ```

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Machine {
    made: u32,
}

impl Work for Machine {
    type Input = u32;

    async fn run(&mut self, pieces: u32, _cx: &mut WorkContext<Self>) -> Result<()> {
        self.made += pieces;
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Team {
    goal: u32,
    done: bool,
    machine: WorkRef<Machine>,
}

impl Flow for Team {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if self.goal > 0 && !self.done {
            let machine = self.machine.run(self.goal).finished()?;
            println!("{}: made {}", cx.path(), machine.made);
            self.done = true;
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Company {
    wheels: FlowRef<Team>,
    cars: FlowRef<Team>,
}

impl Flow for Company {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        if self.wheels.goal == 0 {
            self.wheels.goal = 4; // writing to a Flow below makes it react
        }
        if self.wheels.done && self.cars.goal == 0 {
            self.cars.goal = self.wheels.machine.made / 4;
        }
        if self.cars.done {
            println!("COMPANY: {} car on {} wheels", self.cars.machine.made, self.wheels.machine.made);
            cx.stop("the car is made");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Company::default).main()
}
