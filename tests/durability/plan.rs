//! What the program that is killed does with each number and in each wave: pure functions, which the program and the
//! checker share.

/// Numbers of the feeder that the Work in the pool gets.
pub(crate) fn is_pooled(number: u64) -> bool {
    matches!(number % 5, 1 | 2)
}

/// Numbers of the feeder that the Work with a process of its own gets.
pub(crate) fn is_alone(number: u64) -> bool {
    number % 5 == 3
}

/// Numbers of the feeder that the Work gets whose failures are captured.
pub(crate) fn is_captured(number: u64) -> bool {
    number % 5 == 4
}

/// The number of attempts that fail before one succeeds, in a Work that is restarted.
pub(crate) fn failures(input: u64) -> u32 {
    match input % 7 {
        3 => 1,
        5 => 2,
        _ => 0,
    }
}

/// Inputs that always fail in the Work whose failures are captured.
pub(crate) fn always_fails(input: u64) -> bool {
    input % 2 == 1
}

/// The keys of the map of Works in a wave. Every Work of an even wave stays for the next one.
pub(crate) fn cells(wave: u64) -> Vec<String> {
    let number = [1, 3, 2][(wave / 2 % 3) as usize];
    let late = if wave % 2 == 1 { 1 } else { 0 };
    (0..number + late).map(|cell| format!("w{}-{cell}", wave / 2)).collect()
}

/// The length of the list of Works in a wave.
pub(crate) fn lines(wave: u64) -> usize {
    [2, 1, 3][(wave % 3) as usize]
}

/// The number of runs in the waves before this one.
pub(crate) fn built_before(wave: u64) -> u64 {
    (0..wave).map(|wave| (cells(wave).len() + lines(wave)) as u64).sum()
}

/// The number of the numbers up to `last` of which `is_so` is true.
pub(crate) fn count(last: u64, is_so: impl Fn(u64) -> bool) -> u64 {
    (1..=last).filter(|number| is_so(*number)).count() as u64
}
