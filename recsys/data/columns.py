"""The columns of shop data, and the names that they go by in well-known data sets."""

from __future__ import annotations

from recsys.data.tables import Column

USER = Column(
    "user", "id",
    ("user_id", "customer_id", "customer", "reviewer_id", "client_id", "member_id", "visitor_id",
     "visitor", "session_id", "session"),
)  # fmt: skip
ITEM = Column(
    "item", "id",
    ("item_id", "product_id", "movie_id", "article_id", "stock_code", "doc_id", "asin", "sku"),
)  # fmt: skip
TIME = Column(
    "time", "time",
    ("timestamp", "event_time", "invoice_date", "datetime", "date", "unix_review_time",
     "created_at", "order_date", "order_time", "purchase_date", "t_dat", "ts", "when"),
    required=False,
)  # fmt: skip
EVENT = Column("event", "text", ("event_type", "behavior", "action"), required=False)
RATING = Column("rating", "number", ("overall", "stars"))
