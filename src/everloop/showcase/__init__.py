"""SHOW: sentiment, images and recommendations by ordinary models, with no privileges.

What is here knows how a question (a text, an image, a user) becomes the tensors that such a model takes, and how its tensors become the
answer that people read. The API's routes and programs without a server ask by the same functions.

answers     the shapes of the answers, for the routes and for programs
builtin     the models that come with everloop, by name
sentiment   texts
images      images, from bytes, base64 or (`fetching`) a URL
recommender users, items and what they did
"""
