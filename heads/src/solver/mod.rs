//! Solvers: the optimization algorithms that fit heads.

pub(crate) mod adamw;
pub(crate) mod crammer_singer;
pub(crate) mod cross_validation;
pub(crate) mod dual_coordinate_descent;
pub(crate) mod gradient;
pub(crate) mod lbfgs;
pub(crate) mod logistic;
pub(crate) mod owlqn;
pub(crate) mod softmax;
