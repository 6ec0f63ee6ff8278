import everloop as continuum
import numpy as np
import time

# Create a Continuum instance with frequent updates
config = continuum.LearningConfig.frequent_updates()
config.min_samples = 30  # Train after 30 samples
config.interval_sec = 3  # Check every 3 seconds

# Initialize the system
ml_system = continuum.Continuum(config)

# Register a linear regression model
ml_system.register_model(
    "adaptive_model",
    "linear",
    continuum.ModelParameters(
        with_bias=True, 
        learning_rate=0.01, 
        max_iterations=1000, 
        regularization=None
    )
)

# Add initial training data
for i in range(50):
    x = np.random.uniform(0, 10)
    y = 1.0 * x + np.random.normal(0, 0.1)  # y = x + noise
    ml_system.add_training_example("adaptive_model", [float(x)], float(y), False)

# Start continuous learning in the background
ml_system.start_continuous_learning()

# Wait for model to train
time.sleep(3)

# Make predictions
for i in range(10):
    x = np.random.uniform(0, 10)
    response = ml_system.predict("adaptive_model", [float(x)])
    print(f"Input: {x}, Prediction: {response.prediction}, Version: {response.model_version}")

# Add data with new pattern (data drift)
for i in range(50):
    x = np.random.uniform(0, 10)
    y = 2.0 * x + np.random.normal(0, 0.1)  # y = 2x + noise (slope changed)
    ml_system.add_training_example("adaptive_model", [float(x)], float(y), False)

# Wait for model update
time.sleep(5)

# Make more predictions with the updated model
for i in range(10):
    x = np.random.uniform(0, 10)
    response = ml_system.predict("adaptive_model", [float(x)])
    print(f"Input: {x}, Prediction: {response.prediction}, Version: {response.model_version}")

# Stop continuous learning
ml_system.stop_continuous_learning()
