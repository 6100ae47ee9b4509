//! Help texts, and descriptions of heads.

use crate::support::Project;

#[test]
fn help_of_every_command() {
    let project = Project::new(0);
    for command in [
        "", "init", "train", "compare", "predict", "evaluate", "extract", "split", "doctor", "heads", "bench",
    ] {
        let mut arguments: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
        arguments.push("--help");
        let done = project.run(&arguments).ok();
        let name = if command.is_empty() { "headstock" } else { command };
        insta::assert_snapshot!(format!("help_{name}"), done.stdout);
    }
}

#[test]
fn heads_are_listed_and_described_by_tables_that_can_be_pasted() {
    let project = Project::new(0);
    insta::assert_snapshot!("heads", project.run(&["heads"]).ok().stdout);
    for head in ["linear", "mlp", "svm"] {
        let shown = project.run(&["heads", head]).ok().stdout;
        insta::assert_snapshot!(format!("heads_{head}"), shown);
        project.write("pasted.toml", &format!("version = 1\n[data]\nfeatures = \"x.npz\"\n{shown}"));
        // The failure is about the data, so the table was accepted.
        project.run(&["train", "--config", "pasted.toml"]).fails(3, &["x.npz"]);
    }
    project.run(&["heads", "forest"]).fails(
        2,
        &["there is no head `forest`: choose one of cosine, knn, lda, linear, mlp, nearest-mean, ridge, svm"],
    );
}
