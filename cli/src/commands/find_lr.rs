//! `headstock train --find-lr`

use headstock_train::config::Settings;
use headstock_train::{LrPoint, find_lr};

use super::CommandContext;

/// Rows and columns of the plot, in characters.
const HEIGHT: usize = 12;
const WIDTH: usize = 64;

/// Losses above this multiple of the first one are clipped, so that a diverging loss does not flatten the
/// rest.
const MAX_LOSS_RATIO: f64 = 1.5;

/// Runs a learning rate range test: raises the learning rate from step to step and records the loss.
/// Prints a plot of the loss and two suggestions for `tune.lr`.
pub(super) fn run(settings: &Settings, context: &mut CommandContext<'_>) -> anyhow::Result<()> {
    let curve = find_lr(settings, context.bars)?;
    let out = &mut *context.output;
    for line in plot(&curve.points) {
        out.print(line)?;
    }
    out.print("")?;
    match (curve.steepest, curve.a_tenth_of_lowest) {
        (Some(steepest), Some(lowest)) => {
            out.print(format!("try tune.lr = {steepest:.1e}, where the loss falls fastest"))?;
            out.print(format!(
                "or tune.lr = {lowest:.1e}, a tenth of the learning rate with the lowest loss"
            ))?;
            let share = curve.backbone_share;
            out.print(format!(
                "(tune.lr is the learning rate of the head; the last stage of the backbone is trained with \
                 {share} times that rate)"
            ))?;
        }
        _ => out.print(
            "the loss does not fall at any learning rate: the head is already fitted when this test starts, \
             so there may be nothing left to improve; to start from an untrained head, add --set \
             tune.head_init=random",
        )?,
    }
    out.print_json(&curve)?;
    Ok(())
}

/// Plots the smoothed loss (upwards) over the learning rate (to the right, logarithmic) as lines of text,
/// with labels at the axes. `points` are in the order of rising learning rates; without points there are no
/// lines.
fn plot(points: &[LrPoint]) -> Vec<String> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let max_loss = MAX_LOSS_RATIO * first.smoothed;
    let losses = || points.iter().map(|point| point.smoothed.min(max_loss));
    let (low, high) = losses()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| (low.min(loss), high.max(loss)));
    // Where `value` is between `start` (0) and `end` (1).
    let fraction =
        |value: f64, start: f64, end: f64| if end > start { (value - start) / (end - start) } else { 0.0 };
    let mut canvas = vec![vec![' '; WIDTH]; HEIGHT];
    for (point, loss) in points.iter().zip(losses()) {
        let column = fraction(point.lr.ln(), first.lr.ln(), last.lr.ln()) * (WIDTH - 1) as f64;
        // Row 0 is the top, which has the highest loss.
        let row = (1.0 - fraction(loss, low, high)) * (HEIGHT - 1) as f64;
        canvas[row.round() as usize][column.round() as usize] = '•';
    }
    let mut lines: Vec<String> = canvas
        .into_iter()
        .enumerate()
        .map(|(row, characters)| {
            let label = match row {
                0 => format!("{high:.3}"),
                _ if row == HEIGHT - 1 => format!("{low:.3}"),
                _ => String::new(),
            };
            format!("{label:>8} ┤{}", characters.into_iter().collect::<String>().trim_end())
        })
        .collect();
    lines.push(format!("{:>8} └{}", "loss", "─".repeat(WIDTH)));
    let (first, last) = (format!("{:.0e}", first.lr), format!("{:.0e}", last.lr));
    let middle = WIDTH.saturating_sub(first.len() + last.len());
    lines.push(format!("{:>9} {first}{:^middle$}{last}", "", "learning rate of the head"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_spans_all_learning_rates() {
        let curve: Vec<LrPoint> = (0..9)
            .map(|step| {
                let smoothed = (f64::from(step) - 5.0).abs();
                LrPoint { lr: 10f64.powi(step - 6), loss: smoothed, smoothed }
            })
            .collect();
        let lines = plot(&curve);
        assert_eq!(lines.len(), HEIGHT + 2);
        assert!(lines[0].starts_with("   5.000 ┤•"), "{lines:#?}");
        let lowest = lines[HEIGHT - 1].chars().position(|c| c == '•').unwrap();
        assert_eq!(lowest, 10 + (5.0 / 8.0 * (WIDTH - 1) as f64).round() as usize, "{lines:#?}");
        assert!(lines[HEIGHT + 1].contains("1e-6") && lines[HEIGHT + 1].ends_with("1e2"), "{lines:#?}");
    }

    #[test]
    fn a_constant_loss_is_a_horizontal_line() {
        let point = LrPoint { lr: 1.0, loss: 1.0, smoothed: 1.0 };
        let lines = plot(&[point, LrPoint { lr: 2.0, ..point }]);
        assert_eq!(lines[HEIGHT - 1].matches('•').count(), 2, "{lines:#?}");
        assert!(plot(&[]).is_empty());
    }
}
