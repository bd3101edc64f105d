"""How a server, or a snapshot opened here, is called: a call in, arrays and typed exceptions out.

with Client("127.0.0.1:50051") as client:
    answer = client.predict("And only l", include_model=True)
    print(answer.results[0].distribution.tokens)
"""

from ffnsearch_service.client.admin import AdminClient
from ffnsearch_service.client.queries import Queries
from ffnsearch_service.client.remote import AsyncClient, Client

__all__ = ["AdminClient", "AsyncClient", "Client", "Queries"]
