"""A model of one's own: any object with methods, in a module that bears its name."""

from __future__ import annotations

from typing import Any


def load_model() -> Any:
    """A classifier of scikit-learn, trained here because that takes milliseconds; yours would come from a file."""
    from sklearn.datasets import load_iris
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    iris = load_iris()
    return LinearDiscriminantAnalysis().fit(iris.data, iris.target_names[iris.target])


class CustomModel:
    def __init__(self) -> None:
        self.model = load_model()

    def predict(self, input_data: dict[str, Any]) -> Any:
        """`input_data` is the object that TypeScript gave: `{input: [[5.1, 3.5, 1.4, 0.2]]}`."""
        return self.model.predict(input_data["input"])


# Export for polyglot access
custom_model = CustomModel()
