"""What can be trained: everything that fulfils the contract of `base`.

base       the contract, and the loss of an answer
make       finds the learner for what a user registers, and for what the registry kept of it
linear     `linear`, `ridge`, `logistic`
families   `forest`, `boosting`, and linear models over tables with text
auto       `auto`: the best of several
sklearn    any scikit-learn estimator
river      any River model
labels     class labels as codes
"""
