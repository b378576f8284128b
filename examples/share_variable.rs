//! Passing a variable from a Flow to a Work: the input of a run.

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Component;

impl Work for Component {
    type Input = String;

    async fn run(&mut self, x: String, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("MACHINE 1: this string came from machine 0: \"{x}\"");
        println!("MACHINE 1: this string is on machine 1");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct WorkflowOrchestrator {
    component: WorkRef<Component>,
}

impl Flow for WorkflowOrchestrator {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let x = "hello from machine 0".to_string();
        self.component.run(x).finished()?;
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(WorkflowOrchestrator::default).main()
}
