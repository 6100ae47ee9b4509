mod folds;
mod shuffle;

/// `label` of `reference/split/make.py`.
fn label(shape: &str, classes: u64, i: u64) -> u32 {
    let u = i * 2_654_435_761 % (1 << 32);
    let squared = (u * u) >> 32;
    let number = match shape {
        _ if i < 2 * classes => i % classes,
        "turns" => i % classes,
        "blocks" => i / 7 % classes,
        "scattered" => (u * classes) >> 32,
        "steep" => (((squared * squared) >> 32) * classes) >> 32,
        _ => (squared * classes) >> 32,
    };
    (if shape == "gaps" { number * 3 + 1 } else { number }) as u32
}
