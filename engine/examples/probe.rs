fn main(){headstock_engine::probe::run()}
