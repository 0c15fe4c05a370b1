def write_model_card(args, config, results):
    pass
