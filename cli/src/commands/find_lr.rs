//! `headstock train --find-lr`

use headstock_train::config::Settings;
use headstock_train::{LrPoint, find_lr};

use super::Session;

/// Rows and columns of the plot.
const HEIGHT: usize = 12;
const WIDTH: usize = 64;

/// Losses above so many times the first one are drawn at the top: what diverges would flatten the rest.
const HIGHEST: f64 = 1.5;

pub(super) fn run(settings: &Settings, session: &mut Session<'_>) -> anyhow::Result<()> {
    let curve = find_lr(settings, session.bars)?;
    let out = &mut *session.output;
    for line in plot(&curve.points) {
        out.line(line)?;
    }
    out.line("")?;
    match (curve.steepest, curve.a_tenth_of_lowest) {
        (Some(steepest), Some(lowest)) => {
            out.line(format!("the loss falls most steeply at tune.lr = {steepest:.1e}"))?;
            out.line(format!("a tenth of where it is lowest:  tune.lr = {lowest:.1e}"))?;
            let share = curve.backbone_share;
            out.line(format!("(of the head; the last stage of the backbone has {share} of it)"))?;
        }
        _ => out.line("the loss falls nowhere: the head may be at its best already")?,
    }
    out.figures(&curve)?;
    Ok(())
}

/// The smoothed loss over the learning rate, whose axis is logarithmic.
fn plot(points: &[LrPoint]) -> Vec<String> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let top = HIGHEST * first.smoothed;
    let losses = || points.iter().map(|point| point.smoothed.min(top));
    let (low, high) = losses()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| (low.min(loss), high.max(loss)));
    let part = |value: f64, from: f64, to: f64| if to > from { (value - from) / (to - from) } else { 0.0 };
    let mut canvas = vec![vec![' '; WIDTH]; HEIGHT];
    for (point, loss) in points.iter().zip(losses()) {
        let column = part(point.lr.ln(), first.lr.ln(), last.lr.ln()) * (WIDTH - 1) as f64;
        let row = (1.0 - part(loss, low, high)) * (HEIGHT - 1) as f64;
        canvas[row.round() as usize][column.round() as usize] = '•';
    }
    let mut lines: Vec<String> = canvas
        .into_iter()
        .enumerate()
        .map(|(row, cells)| {
            let label = match row {
                0 => format!("{high:.3}"),
                _ if row == HEIGHT - 1 => format!("{low:.3}"),
                _ => String::new(),
            };
            format!("{label:>8} ┤{}", cells.into_iter().collect::<String>().trim_end())
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
    fn a_curve_is_drawn_from_the_lowest_rate_to_the_highest() {
        let points: Vec<LrPoint> = (0..9)
            .map(|step| {
                let smoothed = (f64::from(step) - 5.0).abs();
                LrPoint { lr: 10f64.powi(step - 6), loss: smoothed, smoothed }
            })
            .collect();
        let lines = plot(&points);
        assert_eq!(lines.len(), HEIGHT + 2);
        assert!(lines[0].starts_with("   5.000 ┤•"), "{lines:#?}");
        let lowest = lines[HEIGHT - 1].chars().position(|c| c == '•').unwrap();
        assert_eq!(lowest, 10 + (5.0 / 8.0 * (WIDTH - 1) as f64).round() as usize, "{lines:#?}");
        assert!(lines[HEIGHT + 1].contains("1e-6") && lines[HEIGHT + 1].ends_with("1e2"), "{lines:#?}");
    }

    #[test]
    fn points_that_are_all_alike_are_a_line() {
        let point = LrPoint { lr: 1.0, loss: 1.0, smoothed: 1.0 };
        let lines = plot(&[point, LrPoint { lr: 2.0, ..point }]);
        assert_eq!(lines[HEIGHT - 1].matches('•').count(), 2, "{lines:#?}");
        assert!(plot(&[]).is_empty());
    }
}
