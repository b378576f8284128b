//! Sending a large variable from one Work to another: the Flow passes on a reference, never the bytes.

use flowright::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct EmbeddingProcessor {
    embeddings: Option<Payload<Vec<Vec<i64>>>>,
}

impl Work for EmbeddingProcessor {
    type Input = ();

    async fn run(&mut self, (): (), cx: &mut WorkContext<Self>) -> Result<()> {
        println!("PROCESSOR: Generating embeddings...");
        self.embeddings = Some(cx.payload(vec![vec![1, 2, 3], vec![2, 3, 4]])?);
        Ok(()) // the state is published at the end of a run
    }
}

#[derive(Default, Serialize, Deserialize)]
struct EmbeddingServer;

impl Work for EmbeddingServer {
    type Input = Payload<Vec<Vec<i64>>>;

    async fn run(&mut self, payload: Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        println!("SERVER: Using embeddings from processor {payload:?}");
        let embeddings = payload.value().await?; // the data moves here, and only here
        println!("serving embeddings sent from EmbeddingProcessor: {embeddings:?}");
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct WorkflowOrchestrator {
    processor: WorkRef<EmbeddingProcessor>,
    server: WorkRef<EmbeddingServer>,
}

impl Flow for WorkflowOrchestrator {
    fn react(&mut self, _cx: &mut FlowContext) -> Reaction {
        let processor = self.processor.run(()).finished()?; // `?` returns early; react is called again after the run
        if let Some(embeddings) = &processor.embeddings {
            self.server.run(embeddings.clone()).finished()?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(WorkflowOrchestrator::default).main()
}
