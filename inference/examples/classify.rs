//! Classifies photos with a trained run:
//! `cargo run --release -p headstock-inference --example classify -- RUN PHOTO...`

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use headstock_heads::Registry;
use headstock_inference::Predictor;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let run = arguments.next().ok_or("give the folder of a run, then photos")?;
    let predictor = Predictor::open(&run, &Registry::builtin())?;
    for image in arguments {
        let prediction = predictor.predict_file(&image)?;
        let class = prediction.predicted as usize;
        let (name, probability) = (&predictor.classes()[class], prediction.probabilities[class]);
        writeln!(std::io::stdout(), "{}: {name} {probability:.3}", image.display())?;
    }
    Ok(())
}
