//! A gigabyte of embeddings is created in one process and used in two others; prints the time and memory that this
//! takes.

use std::time::Instant;

use flowright::prelude::*;

const DIMENSIONS: usize = 1024;
const MIB: f64 = (1 << 20) as f64;

/// Returns one component of a vector: a pseudo-random 1 or -1.
fn number(vector: usize, dimension: usize) -> f32 {
    let mixed = ((vector * DIMENSIONS + dimension) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if (mixed ^ (mixed >> 29)).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 }
}

#[derive(Default, Serialize, Deserialize)]
struct Embedder {
    embeddings: Option<Payload<Vec<f32>>>,
}

impl Work for Embedder {
    type Input = usize;

    async fn run(&mut self, vectors: usize, cx: &mut WorkContext<Self>) -> Result<()> {
        let numbers = (0..vectors * DIMENSIONS).map(|at| number(at / DIMENSIONS, at % DIMENSIONS));
        self.embeddings = Some(cx.payload(numbers.collect())?);
        Ok(())
    }
}

/// Finds the vector that is nearest to a query.
#[derive(Default, Serialize, Deserialize)]
struct Search {
    found: usize,
    report: String,
}

impl Work for Search {
    type Input = (Payload<Vec<f32>>, usize);

    async fn run(&mut self, (embeddings, vector): Self::Input, _cx: &mut WorkContext<Self>) -> Result<()> {
        let began = Instant::now();
        let all = embeddings.value().await?; // the data moves here, and only here
        let (bytes, seconds) = (embeddings.encoded_len() as f64, began.elapsed().as_secs_f64());
        // The query is a known vector with a tenth of its components flipped.
        let sign = |at| if at < DIMENSIONS / 10 { -1.0 } else { 1.0 };
        let query: Vec<f32> = (0..DIMENSIONS).map(|at| sign(at) * number(vector, at)).collect();
        let score = |one: &[f32]| one.iter().zip(&query).map(|(one, other)| one * other).sum::<f32>();
        let scores = all.chunks_exact(DIMENSIONS).map(score).enumerate();
        self.found = scores.max_by(|one, other| one.1.total_cmp(&other.1)).map_or(0, |best| best.0);
        let (mib, rate) = (bytes / MIB, bytes / seconds / 1e9);
        let peak = peak_memory()?;
        self.report = format!("{mib} MiB in {seconds:.3} s, {rate:.2} GB/s; peak memory {peak:.0} MiB");
        Ok(())
    }
}

/// Returns the peak memory of this process in MiB.
fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.unwrap_or("0").parse::<f64>()? / 1024.0)
}

#[derive(Serialize, Children)]
struct Embeddings {
    embedder: WorkRef<Embedder>,
    search_1: WorkRef<Search>,
    search_2: WorkRef<Search>,
}

impl Flow for Embeddings {
    fn react(&mut self, cx: &mut FlowContext) -> Reaction {
        let mib = std::env::var("EMBEDDINGS_MIB").map_or(Ok(1024), |mib| mib.parse::<usize>())?;
        let made = self.embedder.run(mib * (1 << 20) / (4 * DIMENSIONS)).finished()?;
        let Some(embeddings) = made.embeddings.clone() else { return Ok(()) };
        self.search_2.run((embeddings.clone(), 34)); // at the same time
        let first = self.search_1.run((embeddings.clone(), 12)).finished()?;
        let second = self.search_2.run((embeddings, 34)).finished()?;
        for (name, search) in [("SEARCH 1", first), ("SEARCH 2", second)] {
            println!("{name}: found vector {}: {}", search.found, search.report);
        }
        cx.stop("both have found theirs");
        Ok(())
    }
}

fn main() -> ExitCode {
    App::new(|| Embeddings {
        embedder: WorkRef::new(Embedder::default()).placed(Placement::Process),
        search_1: WorkRef::new(Search::default()).placed(Placement::Process),
        search_2: WorkRef::new(Search::default()).placed(Placement::Process),
    })
    .main()
}
