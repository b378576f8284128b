//! Sharing files between Works: a checkpoint directory goes from training to deployment, and a drive collects the
//! reports of both.

use std::fs;
use std::path::PathBuf;

use flowright::prelude::*;

/// Returns the path of a temporary directory for this Work, in whichever process it runs.
fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("share_files-{}", std::process::id())).join(name)
}

#[derive(Default, Serialize, Deserialize)]
struct Train {
    checkpoint: Option<Artifact>,
}

impl Work for Train {
    type Input = Drive;

    async fn run(&mut self, reports: Drive, cx: &mut WorkContext<Self>) -> Result<()> {
        let directory = scratch("training");
        fs::create_dir_all(directory.join("layers"))?;
        fs::write(directory.join("config.json"), "{\"layers\": 2}")?;
        for layer in 0..2 {
            fs::write(directory.join(format!("layers/{layer}.bin")), vec![layer; 1_000_000])?;
        }
        println!("TRAIN: the checkpoint is written");
        self.checkpoint = Some(cx.artifact(&directory)?); // a copy, so that the directory can be removed
        fs::remove_dir_all(&directory)?;
        reports.put_bytes("train.txt", "trained 2 layers").await?;
        Ok(())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Deploy;

impl Work for Deploy {
    type Input = (Artifact, Drive);

    async fn run(&mut self, (checkpoint, reports): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        let directory = scratch("deployed");
        checkpoint.fetch(&directory).overwrite(true).await?; // the files move here, and only here
        let config = fs::read_to_string(directory.join("config.json"))?;
        let weights = fs::read(directory.join("layers/1.bin"))?;
        println!("DEPLOY: serves {config} with {} bytes in the last layer", weights.len());
        fs::remove_dir_all(&directory)?;
        reports.put_bytes("deploy.txt", "deployed 1 checkpoint").await?;
        Ok(())
    }
}

/// Reads the reports of the other Works.
#[derive(Default, Serialize, Deserialize)]
struct Summarize;

impl Work for Summarize {
    type Input = Drive;

    async fn run(&mut self, reports: Drive, _cx: &mut WorkContext<Self>) -> Result<()> {
        for file in reports.list("").await? {
            let text = reports.read(&file.name).await?;
            println!("REPORT: {}: {}", file.name, String::from_utf8_lossy(&text));
            reports.delete(&file.name).await?;
        }
        Ok(())
    }
}

#[derive(Default, Serialize, Children)]
struct Pipeline {
    train: WorkRef<Train>,
    deploy: WorkRef<Deploy>,
    summarize: WorkRef<Summarize>,
}

impl Flow for Pipeline {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let reports = Drive::new("reports"); // a folder at the head, the same for Works on any machine
        let trained = self.train.run(reports.clone()).finished()?;
        if let Some(checkpoint) = trained.checkpoint.clone() {
            self.deploy.run((checkpoint, reports.clone())).finished()?;
            self.summarize.run(reports).finished()?;
            cx.stop("all is reported");
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(Pipeline::default).main()
}
