"""The layout of an object that bears its module's name."""


class CustomModel:
    def __init__(self):
        self.warm = False

    def predict(self, input_data):
        return {"got": input_data, "warm": self.warm}

    def warmup(self):
        self.warm = True


custom_model = CustomModel()
